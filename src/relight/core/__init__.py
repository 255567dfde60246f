"""The nouns: immutable values that every other layer talks in. Standard library only, no I/O."""
