//! The bodies of the host daemon's two sockets, version 1: `register.sock` for VM managers, `admin.sock` for root.
