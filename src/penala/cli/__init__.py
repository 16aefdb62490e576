"""The command line: noun groups with verbs. Each command parses, calls one function and prints."""
