"""An image → the input of a network, and its outputs → an answer, as its bundle says. Nothing here runs a network."""
