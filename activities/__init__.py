"""What touches the world: one class a subject, with its dependencies given to it."""
