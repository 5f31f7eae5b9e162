// Package archtest checks the structure of the program by reading its source: who may import whom,
// who may use which library, that every package says what it is for, and that every source driver
// runs the contract suite. It holds tests only.
package archtest
