//! Drawing a frame.

use ratatui::{
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Paragraph, Row, Table, Widget},
};

use super::view::{FaultLine, PortLine, QueueLine, View};
use crate::rate::brief;

const TITLE: Style = Style::new().add_modifier(Modifier::BOLD);
const HEADER: Style = Style::new().add_modifier(Modifier::REVERSED);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);
const FIRING: Style = Style::new().fg(Color::Yellow);

/// Widths of the columns of queues; 79 with the spaces between them.
const QUEUE_COLUMNS: [(&str, u16); 10] = [
    ("port", 8),
    ("queue", 5),
    ("rx/s", 7),
    ("rx bit/s", 8),
    ("drop/s", 7),
    ("split", 5),
    ("tx/s", 7),
    ("tx bit/s", 8),
    ("out", 7),
    ("viol", 7),
];

const FAULT_COLUMNS: [(&str, u16); 6] = [
    ("fault", 7),
    ("port", 8),
    ("rule", 23),
    ("hits", 9),
    ("hits/s", 7),
    ("seen", 9),
];

/// The lines that show everything.
pub(crate) fn height(view: &View) -> u16 {
    let [heading, queues, faults] = heights(view);
    heading.saturating_add(queues).saturating_add(faults)
}

/// The lines of heading and ports, of queues, and of faults with the empty line before them.
fn heights(view: &View) -> [u16; 3] {
    let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX / 4);
    let faults = match view.faults.len() {
        0 => 0,
        count => lines(count).saturating_add(2),
    };
    [
        lines(view.ports.len()).saturating_add(2),
        lines(view.queues.len()).saturating_add(1),
        faults,
    ]
}

/// Draws a frame. If there is not enough room, busy queues and firing rules are shown first, and the
/// number of those that are left out.
pub(crate) fn render(view: &View, area: Rect, buffer: &mut Buffer) {
    let [heading, queues, mut faults] = heights(view);
    if heading.saturating_add(queues).saturating_add(faults) > area.height {
        // Rules get up to a third of the room.
        faults = faults.min((area.height / 3).max(3));
    }
    let [top, middle, bottom] = Layout::vertical([
        Constraint::Length(heading),
        Constraint::Fill(1),
        Constraint::Length(faults),
    ])
    .areas(area);
    render_heading(view, top, buffer);
    render_queues(&view.queues, middle, buffer);
    if !view.faults.is_empty() {
        render_faults(&view.faults, bottom, buffer);
    }
}

fn render_heading(view: &View, area: Rect, buffer: &mut Buffer) {
    let version = view.version.as_deref().unwrap_or_default();
    let mut lines = vec![Line::from(vec![
        Span::styled(format!("zcnic {version}"), TITLE),
        Span::raw(format!("  {}", view.socket)),
    ])];
    lines.extend(view.ports.iter().map(port_line));
    lines.push(match &view.gone {
        Some(reason) => Line::styled(format!("Waiting for the backend: {reason}"), ALARM),
        None => Line::default(),
    });
    Paragraph::new(lines).render(area, buffer);
}

fn port_line(port: &PortLine) -> Line<'_> {
    let mut words = vec![Span::raw(format!(
        "port {:<8} {:<9} ",
        port.name, port.driver
    ))];
    words.push(match (port.connected, port.link) {
        (false, _) => Span::styled("not connected", ALARM),
        (true, false) => Span::styled("no link      ", ALARM),
        (true, true) => Span::raw("link         "),
    });
    for (rate, what) in [
        (port.filtered, "filtered"),
        (port.no_carrier, "without link"),
    ] {
        if let Some(rate) = rate.filter(|&rate| rate > 0.0) {
            words.push(Span::styled(format!("  {}/s {what}", brief(rate)), ALARM));
        }
    }
    Line::from(words)
}

fn render_queues(queues: &[QueueLine], area: Rect, buffer: &mut Buffer) {
    let rows = fit(queues, area, QueueLine::is_busy, "queues", |queue| {
        let style = if queue.violations > 0 || queue.drops.is_some_and(|drops| drops > 0.0) {
            ALARM
        } else {
            Style::new()
        };
        let cells = [
            right(&rate(queue.rx_frames), 2),
            right(&rate(queue.rx_bits), 3),
            right(&rate(queue.drops), 4),
            right(&percent(queue.split), 5),
            right(&rate(queue.tx_frames), 6),
            right(&rate(queue.tx_bits), 7),
            right(&number(queue.out), 8),
            right(&number(queue.out.map(|_| queue.violations)), 9),
        ];
        let first = [queue.port.clone(), right(&queue.queue.to_string(), 1)];
        Row::new(first.into_iter().chain(cells)).style(style)
    });
    table(rows, &QUEUE_COLUMNS, 1, area.width).render(area, buffer);
}

fn render_faults(faults: &[FaultLine], area: Rect, buffer: &mut Buffer) {
    let area = Rect {
        y: area.y.saturating_add(1),
        height: area.height.saturating_sub(1),
        ..area
    };
    let fires = |fault: &FaultLine| fault.rate.is_some_and(|rate| rate > 0.0);
    let right = |text: &str, column: usize| align(text, FAULT_COLUMNS[column].1);
    let rows = fit(faults, area, fires, "rules", |fault| {
        let style = if fires(fault) { FIRING } else { Style::new() };
        Row::new([
            fault.id.to_string(),
            fault.port.clone(),
            fault.rule.clone(),
            right(&fault.hits.to_string(), 3),
            right(&rate(fault.rate), 4),
            right(&fault.seen.to_string(), 5),
        ])
        .style(style)
    });
    table(rows, &FAULT_COLUMNS, 3, area.width).render(area, buffer);
}

/// The rows that fit below a header: all, or the busy ones first and a line with the number of those
/// that are left out.
fn fit<'a, T>(
    items: &'a [T],
    area: Rect,
    is_busy: impl Fn(&T) -> bool,
    name: &str,
    row: impl Fn(&'a T) -> Row<'a>,
) -> Vec<Row<'a>> {
    let room = usize::from(area.height.saturating_sub(1));
    if items.len() <= room {
        return items.iter().map(row).collect();
    }
    let (busy, idle): (Vec<_>, Vec<_>) = items.iter().partition(|item| is_busy(item));
    let shown = room.saturating_sub(1);
    let left_out = items.len() - shown;
    let last = Row::new([format!("+{left_out}"), name.to_owned()]);
    let rows = busy.into_iter().chain(idle).take(shown).map(row);
    rows.chain([last]).collect()
}

/// A table with numbers from column `numbers` on. Columns that do not fit into `width` are left out.
fn table<'a>(
    rows: Vec<Row<'a>>,
    columns: &[(&'static str, u16)],
    numbers: usize,
    width: u16,
) -> Table<'a> {
    let ends = columns.iter().scan(0, |end, &(_, width)| {
        *end += width + 1;
        Some(*end - 1)
    });
    let fitting = ends.take_while(|&end| end <= width).count();
    let columns = &columns[..fitting];
    let header = columns.iter().enumerate().map(|(column, &(name, width))| {
        if column < numbers {
            name.to_owned()
        } else {
            align(name, width)
        }
    });
    let widths = columns.iter().map(|&(_, width)| Constraint::Length(width));
    Table::new(rows, widths)
        .header(Row::new(header).style(HEADER))
        .column_spacing(1)
}

fn right(text: &str, column: usize) -> String {
    align(text, QUEUE_COLUMNS[column].1)
}

fn align(text: &str, width: u16) -> String {
    format!("{text:>width$}", width = usize::from(width))
}

fn rate(rate: Option<f64>) -> String {
    rate.map_or_else(|| "-".to_owned(), brief)
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "-".to_owned(), |share| format!("{:.0}%", 100.0 * share))
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}
