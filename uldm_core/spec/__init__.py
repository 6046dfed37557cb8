"""From a signature to options, from a table to a checked component spec, from that to the component."""
