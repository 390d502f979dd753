//! Phase and reply to verdict and scope.
