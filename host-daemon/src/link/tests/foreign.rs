//! Other instances' data.
