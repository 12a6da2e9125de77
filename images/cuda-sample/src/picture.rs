//! The confusion matrix as a PNG: a cell for each pair of shown and seen digit, darker where more images fell, the number
//! of them in it; mistakes in red.

use crate::digits::CLASSES;
use crate::font;
use crate::training::{Confusion, accuracy};

const CELL: usize = 44;
const LEFT: usize = 76;
const TOP: usize = 106;
const MARGIN: usize = 24;
/// Width of the picture in pixels.
pub const WIDTH: usize = LEFT + CLASSES * CELL + MARGIN;
/// Height of the picture in pixels.
pub const HEIGHT: usize = TOP + CLASSES * CELL + MARGIN;
/// Pixels for each dot of the font.
const SCALE: usize = 2;

type Color = [u8; 3];
const PAPER: Color = [255, 255, 255];
const INK: Color = [32, 38, 46];
const FAINT: Color = [176, 184, 194];
const RIGHT: Color = [18, 78, 140];
const WRONG: Color = [200, 40, 40];

struct Canvas {
    /// RGB, row by row.
    pixels: Vec<u8>,
}

impl Canvas {
    fn fill(&mut self, x: usize, y: usize, width: usize, height: usize, color: Color) {
        for row in y..y + height {
            for column in x..x + width {
                let at = 3 * (row * WIDTH + column);
                self.pixels[at..at + 3].copy_from_slice(&color);
            }
        }
    }

    /// Writes `text` with its middle at (x, y).
    fn write(&mut self, x: usize, y: usize, text: &str, color: Color) {
        let width = SCALE * (text.chars().count() * font::ADVANCE - 1);
        let (left, top) = (x - width / 2, y - SCALE * font::HEIGHT / 2);
        font::dots(text, |dot_x, dot_y| self.fill(left + SCALE * dot_x, top + SCALE * dot_y, SCALE, SCALE, color));
    }
}

fn blend(from: Color, to: Color, share: f64) -> Color {
    std::array::from_fn(|index| {
        (f64::from(from[index]) + (f64::from(to[index]) - f64::from(from[index])) * share.clamp(0.0, 1.0)).round() as u8
    })
}

/// Where the cell of a shown and a seen digit begins, as (x, y).
fn corner(shown: usize, seen: usize) -> (usize, usize) {
    (LEFT + seen * CELL, TOP + shown * CELL)
}

/// The matrix as the bytes of a PNG, [`WIDTH`] by [`HEIGHT`] pixels, RGB.
pub fn confusion_png(confusion: &Confusion) -> Result<Vec<u8>, png::EncodingError> {
    let mut canvas = Canvas { pixels: vec![255; 3 * WIDTH * HEIGHT] };
    let images: u32 = confusion.iter().flatten().sum();
    let title = format!("ACCURACY {:.2} % OF {images} IMAGES", 100.0 * accuracy(confusion));
    canvas.write(WIDTH / 2, 28, &title, INK);
    let middle = CLASSES * CELL / 2;
    canvas.write(LEFT + middle, 62, "DIGIT SEEN", INK);
    for (index, letter) in ["S", "H", "O", "W", "N"].into_iter().enumerate() {
        canvas.write(26, TOP + middle + 20 * index - 40, letter, INK);
    }
    canvas.fill(LEFT - 1, TOP - 1, CLASSES * CELL + 1, CLASSES * CELL + 1, FAINT);
    for (shown, row) in confusion.iter().enumerate() {
        let label = shown.to_string();
        canvas.write(LEFT + shown * CELL + CELL / 2, TOP - 18, &label, INK);
        canvas.write(LEFT - 20, TOP + shown * CELL + CELL / 2, &label, INK);
        let total = f64::from(row.iter().sum::<u32>().max(1));
        for (seen, count) in row.iter().enumerate() {
            let share = f64::from(*count) / total;
            // Mistakes are few: the root makes even one of them visible.
            let (color, shade) = if shown == seen { (RIGHT, share) } else { (WRONG, share.sqrt()) };
            let (x, y) = corner(shown, seen);
            canvas.fill(x, y, CELL - 1, CELL - 1, blend(PAPER, color, shade));
            let ink = match (*count, shade > 0.5) {
                (0, _) => FAINT,
                (_, true) => PAPER,
                (_, false) => INK,
            };
            canvas.write(x + CELL / 2, y + CELL / 2, &count.to_string(), ink);
        }
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.pixels)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Cursor;

    #[test]
    fn the_png_decodes_to_the_matrix_drawn() {
        let mut confusion = Confusion::default();
        (0..CLASSES).for_each(|digit| confusion[digit][digit] = 30);
        (confusion[3][3], confusion[3][8]) = (20, 10);
        let bytes = confusion_png(&confusion).unwrap();
        let mut reader = png::Decoder::new(Cursor::new(bytes)).read_info().unwrap();
        assert_eq!((reader.info().width as usize, reader.info().height as usize), (WIDTH, HEIGHT));
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let shade = |shown, seen| {
            let (x, y) = corner(shown, seen);
            let at = 3 * ((y + 2) * WIDTH + x + 2);
            [pixels[at], pixels[at + 1], pixels[at + 2]]
        };
        assert_eq!(shade(0, 0), RIGHT);
        assert_eq!(shade(0, 1), PAPER);
        assert_eq!(shade(3, 3), blend(PAPER, RIGHT, 2.0 / 3.0));
        assert_eq!(shade(3, 8), blend(PAPER, WRONG, (1.0f64 / 3.0).sqrt()));
        // The number in a full cell is drawn in white, and some of it is there.
        let (x, y) = corner(0, 0);
        let cell = (y..y + CELL - 1).flat_map(|y| (x..x + CELL - 1).map(move |x| 3 * (y * WIDTH + x)));
        assert!(cell.filter(|at| pixels[*at..*at + 3] == PAPER).count() > 40);
    }
}
