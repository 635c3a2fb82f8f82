//! Small edits of the files in git that keep everything else in them: comments, order, blank lines.

/// Returns `text` with the top-level field `name` set to the plain scalar `value`, where it is or after the field `after`.
pub fn set_field(text: &str, name: &str, value: &str, after: &str) -> String {
    let line = format!("{name}: {value}");
    let mut lines: Vec<&str> = text.lines().collect();
    if let Some(at) = lines.iter().position(|line| is_field(line, name)) {
        lines[at] = &line;
    } else {
        let at = lines.iter().position(|line| is_field(line, after)).map_or(lines.len(), |at| at + 1);
        lines.insert(at, &line);
    }
    lines.join("\n") + "\n"
}

/// Returns `text` without the top-level field `name`, which is a scalar on one line.
pub fn remove_field(text: &str, name: &str) -> String {
    let lines = text.lines().filter(|line| !is_field(line, name));
    lines.map(|line| format!("{line}\n")).collect()
}

fn is_field(line: &str, name: &str) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_different_and_no_other() {
        let text = "# why\nkey: A # east's\n\nprefixes: []\n";
        let next = set_field(text, "next_key", "B", "key");
        assert_eq!(next, "# why\nkey: A # east's\nnext_key: B\n\nprefixes: []\n");
        assert_eq!(set_field(&next, "next_key", "C", "key"), next.replace('B', "C"));
        assert_eq!(remove_field(&next, "next_key"), text);
        assert_eq!(set_field("", "east", "1", ""), "east: 1\n");
        assert_eq!(set_field("west: 2\n", "east", "1", ""), "west: 2\neast: 1\n");
    }
}
