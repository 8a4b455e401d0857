//! `zcnicctl top`: a live view in a terminal.

mod render;
mod sample;
#[cfg(test)]
mod tests;
mod view;

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
    sync::mpsc::{self, TryRecvError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use ratatui::{
    DefaultTerminal,
    buffer::Buffer,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::Rect,
};
use zcnic_ctl::Client;

use sample::{News, Sample};
use view::View;

/// Columns of a frame of text.
const TEXT_COLUMNS: u16 = 80;
/// The time after which a key press is noticed at the latest.
const KEY_INTERVAL: Duration = Duration::from_millis(50);

/// A view of a backend.
pub(crate) struct Top {
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    /// Time between two frames.
    pub(crate) interval: Duration,
    /// Print one frame of text, also on a terminal.
    pub(crate) once: bool,
}

impl Top {
    /// Shows frames until a key ends that. Without a terminal, or once, prints one frame of text.
    pub(crate) fn run(self) -> Result<()> {
        if self.once || !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return self.print();
        }
        let mut terminal = ratatui::try_init().context("The terminal can't be used")?;
        let result = self.show(&mut terminal);
        ratatui::restore();
        result
    }

    /// Prints a frame with the rates of one interval.
    fn print(mut self) -> Result<()> {
        let before = sample::take(&mut self.client)?;
        thread::sleep(self.interval);
        let now = sample::take(&mut self.client)?;
        let view = View::new(self.socket.display().to_string(), Some(&before), &now);
        print!("{}", text(&view));
        Ok(())
    }

    fn show(self, terminal: &mut DefaultTerminal) -> Result<()> {
        let name = self.socket.display().to_string();
        // A backend that does not answer must not keep the user from quitting.
        let (news, latest) = mpsc::sync_channel(1);
        let Self {
            client,
            socket,
            interval,
            ..
        } = self;
        thread::spawn(move || sample::repeat(client, &socket, interval, &news));
        let mut before: Option<Sample> = None;
        let mut view: Option<View> = None;
        loop {
            match latest.try_recv() {
                Ok(News::Sample(now)) => {
                    view = Some(View::new(name.clone(), before.as_ref(), &now));
                    before = Some(*now);
                }
                Ok(News::Gone(error)) => {
                    // Counters of the next backend begin again.
                    before = None;
                    if let Some(view) = &mut view {
                        view.gone = Some(format!("{:#}", anyhow::Error::from(error)));
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {}
            }
            if let Some(view) = &view {
                terminal.draw(|frame| render::render(view, frame.area(), frame.buffer_mut()))?;
            }
            if event::poll(KEY_INTERVAL)? && quits(&event::read()?) {
                return Ok(());
            }
        }
    }
}

/// Whether an event is q, Escape or Ctrl-C. In raw mode the last is a key and no signal.
fn quits(event: &Event) -> bool {
    let &Event::Key(KeyEvent {
        code,
        modifiers,
        kind: KeyEventKind::Press,
        ..
    }) = event
    else {
        return false;
    };
    match code {
        KeyCode::Char('q') | KeyCode::Esc => true,
        KeyCode::Char('c') => modifiers.contains(KeyModifiers::CONTROL),
        _ => false,
    }
}

/// A frame of text that shows everything.
fn text(view: &View) -> String {
    let area = Rect::new(0, 0, TEXT_COLUMNS, render::height(view));
    let mut buffer = Buffer::empty(area);
    render::render(view, area, &mut buffer);
    lines(&buffer)
}

/// The lines of a buffer, without spaces at their ends.
fn lines(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let rows = buffer.content.chunks(width);
    rows.map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        format!("{}\n", line.trim_end())
    })
    .collect()
}
