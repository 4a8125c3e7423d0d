"""Networks and losses of GRSer and LAVT."""
