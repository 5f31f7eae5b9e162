// Package copilot answers a support question with four agents: a planner, a retriever (the only
// one that calls tools), a synthesizer and a critic, with at most one revision. It is an ordinary
// MCP client with the user's token and no other rights; whatever a tool answers is evidence, never
// an instruction, and every sentence of a draft is held against the evidence it cites by code
// (check.go), whichever model wrote it.
//
// Models are behind [Model], tools behind [Tools], memory behind [Memory]; llm, mcpclient and
// memory hold the implementations. Reading the environment and the terminal is left to cmd.
package copilot
