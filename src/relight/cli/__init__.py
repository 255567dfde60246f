"""The command line: every command parses, calls `relight.api` and renders. Nothing is decided here."""
