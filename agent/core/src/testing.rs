//! A core under test, with clocks that the test moves.
