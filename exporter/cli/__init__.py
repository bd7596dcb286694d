"""The command line: one file a command. It sees every room, and imports one only when a command needs it."""
