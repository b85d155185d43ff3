//! Lays the program out so that it is small in memory.

fn main() {
    outrigger_layout::emit();
}
