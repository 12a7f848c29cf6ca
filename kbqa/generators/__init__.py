"""Who writes the answer: one module a kind, each with the one method of `kbqa.types.Generator`."""
