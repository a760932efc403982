"""What is said between the parts: messages, names, IDs, search attributes and errors. No I/O happens here."""
