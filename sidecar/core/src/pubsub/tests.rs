//! A fake broker and a fake subscriber around the real middle, in virtual time.

mod batches;
mod fakes;
mod lifecycle;
mod publishing;
mod single;
