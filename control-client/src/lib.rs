//! A typed client of the control plane and of the host's sockets, and the moorline command.
