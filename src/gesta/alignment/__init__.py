"""One-to-one matching of the tokens of neighbouring frames: similarity, assignment, and the routes they chain into."""
