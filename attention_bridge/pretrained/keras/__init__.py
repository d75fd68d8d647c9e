"""Files of Keras: their layers, their configurations, and both ways of conversion."""
