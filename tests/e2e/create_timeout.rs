//! create_timeout
