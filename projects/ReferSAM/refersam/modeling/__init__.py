"""Networks and losses of ReferSAM."""
