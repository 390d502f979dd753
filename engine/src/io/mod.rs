//! Sockets, files, the clock: the only place that touches the world.
