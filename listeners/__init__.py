"""What starts things: vCenter's events, matched by rules and handed over to workflows."""
