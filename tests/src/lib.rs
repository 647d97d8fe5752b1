//! Starts real daemons and real QEMU guests, and waits for observable conditions.
