//! The two local sockets: `register.sock` for VM managers, `admin.sock` for root.
