"""How vCenter is spoken to: sessions, inventory reads, host changes, tasks and events. Blocking; for threads."""
