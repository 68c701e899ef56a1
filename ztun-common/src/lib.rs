//! Types that the daemon and the kernel programs share.
#![no_std]
