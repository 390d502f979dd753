//! A stub resolver as a state machine: packets out, packets in; MX, addresses, sites.
