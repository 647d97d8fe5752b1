//! The bodies of the agent's native local surface, version 1: HTTP and JSON on a unix socket in the guest.
