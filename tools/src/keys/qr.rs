//! The QR code of a recovery sheet, for terminals and for printers.

use qrcode::render::unicode::Dense1x2;
use qrcode::{Color, EcLevel, QrCode};
use relict::{Error, ErrorKind, Result};
use std::fmt::Write as _;

/// Light modules around the code: the standard wants four.
const QUIET: usize = 4;

fn code(text: &str) -> Result<QrCode> {
    // A quarter of the code may be stained.
    QrCode::with_error_correction_level(text.as_bytes(), EcLevel::Q)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("the slot does not fit into a QR code: {e}")))
}

/// In half blocks, dark on light whatever the terminal's colours are like.
pub fn unicode(text: &str) -> Result<String> {
    Ok(code(text)?
        .render::<Dense1x2>()
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark)
        .quiet_zone(true)
        .build())
}

/// In ASCII: two characters a module, `#` is dark.
pub fn ascii(text: &str) -> Result<String> {
    Ok(code(text)?.render::<char>().dark_color('#').light_color(' ').module_dimensions(2, 1).quiet_zone(true).build())
}

/// As SVG, 4 units a module.
pub fn svg(text: &str) -> Result<String> {
    let code = code(text)?;
    let width = code.width();
    let side = (width + 2 * QUIET) * 4;
    let mut path = String::new();
    for (number, color) in code.to_colors().into_iter().enumerate() {
        if color == Color::Dark {
            let (x, y) = ((number % width + QUIET) * 4, (number / width + QUIET) * 4);
            let _ = write!(path, "M{x} {y}h4v4h-4z");
        }
    }
    Ok(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" width=\"{side}\" height=\"{side}\">\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/><path fill=\"#000\" d=\"{path}\"/></svg>\n"
    ))
}
