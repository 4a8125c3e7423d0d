"""The networks: fusion, encoders, decoders and heads of both branches."""
