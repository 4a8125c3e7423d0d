"""Networks and losses of learning without labels."""
