//! Figures and how they are shown.

use std::time::Duration;

/// Samples of one quantity.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn add_ms(&mut self, time: Duration) {
        self.add(time.as_secs_f64() * 1000.0);
    }

    /// The value that this part of the samples does not exceed; `None` without samples.
    pub fn quantile(&self, part: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // Between 0 and `last`, so it fits.
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let index = (last as f64 * part).round() as usize;
        sorted.get(index).copied()
    }

    pub fn median(&self) -> Option<f64> {
        self.quantile(0.5)
    }
}

/// Prints rows of `what | ours | theirs | ratio | floor` as a Markdown table.
pub struct Table {
    floor: bool,
}

impl Table {
    pub fn head(title: &str, ours: &str, theirs: &str, floor: bool) -> Self {
        println!("\n## {title}\n");
        if floor {
            println!("| what | {ours} | {theirs} | ratio | floor |\n|---|---:|---:|---:|---:|");
        } else {
            println!("| what | {ours} | {theirs} | ratio |\n|---|---:|---:|---:|");
        }
        Table { floor }
    }

    pub fn row(&self, what: &str, ours: Option<f64>, theirs: Option<f64>) {
        self.row_over(what, ours, theirs, None);
    }

    pub fn row_over(&self, what: &str, ours: Option<f64>, theirs: Option<f64>, floor: Option<f64>) {
        let ratio = ours.zip(theirs).filter(|(_, theirs)| *theirs != 0.0);
        let ratio = ratio.map_or("–".to_owned(), |(ours, theirs)| format!("{:.2}", ours / theirs));
        print!("| {what} | {} | {} | {ratio} |", shown(ours), shown(theirs));
        println!(
            "{}",
            if self.floor {
                format!(" {} |", shown(floor))
            } else {
                String::new()
            }
        );
    }
}

fn shown(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 1.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}
