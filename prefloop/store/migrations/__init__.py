"""How a store of an earlier schema becomes one of today's: a file in versions/ for each step, never changed again."""
