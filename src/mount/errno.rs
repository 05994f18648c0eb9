//! The one place where errors become error numbers.

use crate::{Error, ErrorKind};
use fuser::Errno;

/// What the kernel is told. Where the operating system gave a number, it is that one.
pub(super) fn errno(error: &Error) -> Errno {
    Errno::from_i32(error.errno().unwrap_or_else(|| number(error.kind())))
}

const fn number(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound | ErrorKind::NoRepository => libc::ENOENT,
        ErrorKind::NoSpace => libc::ENOSPC,
        ErrorKind::ReadOnly => libc::EROFS,
        ErrorKind::Usage => libc::EINVAL,
        ErrorKind::Locked => libc::EBUSY,
        ErrorKind::WrongPassword => libc::EACCES,
        ErrorKind::Interrupted => libc::EINTR,
        ErrorKind::Damaged | ErrorKind::BadInput | ErrorKind::NewerFormat | ErrorKind::Io => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_system_win() {
        let io = |number| Error::io("x", std::io::Error::from_raw_os_error(number));
        for (error, expected) in [
            (io(libc::ESTALE), libc::ESTALE),
            (Error::damaged("x"), libc::EIO),
            (Error::new(ErrorKind::NotFound, "x"), libc::ENOENT),
            (Error::io("x", std::io::Error::other("no number")), libc::EIO),
        ] {
            assert_eq!(errno(&error).code(), expected);
        }
    }
}
