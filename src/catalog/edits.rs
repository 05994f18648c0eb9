//! Edits of a tree as they come, made into the sorted stream that `tree::apply` takes, in bounded memory.

