//! How often tests repeat what they repeat.
//!
//! `ZTUN_TEST_EFFORT=1000` repeats it ten times as often; where every instruction is emulated, less is set.

use std::env;

const VARIABLE: &str = "ZTUN_TEST_EFFORT";
const USUAL: usize = 100;

/// `usual`, times the effort in percent; at least once.
pub fn times(usual: usize) -> usize {
    scaled(usual, env::var(VARIABLE).ok().as_deref())
}

fn scaled(usual: usize, effort: Option<&str>) -> usize {
    let percent = effort.map_or(USUAL, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{VARIABLE} is {text:?}: expected percent, such as 10"))
    });
    (usual * percent / USUAL).max(1)
}

#[cfg(test)]
mod tests {
    use super::scaled;

    #[test]
    fn effort_is_in_percent_of_the_usual_and_never_nothing() {
        assert_eq!(scaled(1000, None), 1000);
        assert_eq!(scaled(1000, Some("10")), 100);
        assert_eq!(scaled(50, Some("400")), 200);
        assert_eq!(scaled(10, Some("1")), 1);
    }
}
