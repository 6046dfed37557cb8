"""Drawing that commands, stages and reports share."""
