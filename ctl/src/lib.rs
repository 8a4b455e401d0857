//! The control protocol of zcnic and its client.
