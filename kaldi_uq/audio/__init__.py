"""Audio itself: what masks what, how it is disturbed, measured and synthesised."""
