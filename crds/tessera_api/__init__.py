"""The contract: the words that every program of Tessera speaks. No I/O, nothing happens at import."""
