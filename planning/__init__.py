"""Pure decisions: what is missing, what is allowed, what is proven. No I/O."""
