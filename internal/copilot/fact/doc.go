// Package fact reads small facts out of plain text: ids, amounts, dates, durations, numbers, e-mail
// addresses, names and status words, each in one normal form, so that "$49.00" and "4900 cents", or
// "November 10, 2026" and "2026-11-10", compare equal. It also splits text into sentences and
// content words and recognises text that gives orders to its reader.
//
// It knows no sources and no questions: package copilot uses it to hold a draft against its
// evidence, and the offline model to choose what to say. All functions are pure and safe for
// concurrent use.
package fact
