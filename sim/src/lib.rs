//! The real operator in virtual time.
