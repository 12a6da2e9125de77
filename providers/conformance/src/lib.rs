//! The contract of a provider of machines, as cases that every provider and every fake must pass.
