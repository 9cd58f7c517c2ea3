//! Legacy PC devices: the few that a Linux guest still asks for.
