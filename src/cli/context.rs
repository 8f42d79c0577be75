//! What every command has at hand: how things look, where results go, the configuration.

use std::io::{self, Stdout};

use super::{
    arguments::Global,
    exit::Exit,
    output::{Form, Printer, Rows, Seen, Style, Times},
    stop::Stop,
};
use crate::{
    app::{
        App, Fleet, Parts,
        desk::{Desk, DeskError},
        views::Views,
    },
    config::{self, Loaded, nearest},
    domain::ids::AccountName,
    telemetry,
};

/// The home that a command works with.
pub(super) enum Reached {
    /// In one file.
    Embedded(Box<App>),
    /// At servers.
    Fleet(Box<Fleet>),
}

impl Reached {
    /// What is shown of its jobs.
    pub(super) fn views(&self) -> Views<'_> {
        match self {
            Self::Embedded(app) => Views::from(&**app),
            Self::Fleet(fleet) => Views::from(&**fleet),
        }
    }

    /// Calls for a person, within the account's rate.
    pub(super) fn desk(&self, account: AccountName) -> Result<Desk<'_>, DeskError> {
        match self {
            Self::Embedded(app) => Desk::alone(app, account),
            Self::Fleet(fleet) => Ok(Desk::in_the_fleet(fleet, account)),
        }
    }

    /// All but the home.
    pub(super) fn parts(&self) -> &Parts {
        match self {
            Self::Embedded(app) => app,
            Self::Fleet(fleet) => fleet,
        }
    }
}

/// What every command has at hand.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) global: Global,
    /// How stdout looks.
    pub(super) style: Style,
    /// How stderr looks.
    pub(super) aside: Style,
    /// Where results go.
    pub(super) out: Printer<Stdout>,
    pub(super) times: Times,
}

impl Context {
    pub(super) fn new(global: Global) -> Self {
        let (stdout, stderr) = (Seen::stdout(), Seen::stderr());
        let style = Style::new(global.color, &stdout);
        let out = Printer::new(global.form(stdout.is_terminal), stdout.is_terminal, io::stdout());
        let times = Times::new(global.utc);
        Self { style, aside: Style::new(global.color, &stderr), out, times, global }
    }

    /// The form of results.
    pub(super) const fn form(&self) -> Form {
        self.out.form
    }

    /// Reads the configuration and sends log lines to stderr.
    pub(super) fn load(&self) -> Result<Loaded, Stop> {
        self.load_at(None)
    }

    /// As [`Self::load`], for commands that talk to people: only warnings are logged, unless somebody asked.
    pub(super) fn load_quietly(&self) -> Result<Loaded, Stop> {
        self.load_at(Some("longshore=error,longshore::app::desk=warn"))
    }

    fn load_at(&self, quiet: Option<&str>) -> Result<Loaded, Stop> {
        let loaded = config::load(&self.global.config)?;
        let mut told = loaded.settings.telemetry.clone();
        let is_default = matches!(loaded.origin("telemetry.log"), None | Some(config::Origin::Default { .. }));
        if let Some(filter) = quiet.filter(|_| is_default).and_then(config::LogFilter::parse) {
            told.log = filter;
        }
        let looks = telemetry::Looks { is_terminal: self.aside.is_terminal, is_coloured: self.aside.is_coloured };
        telemetry::start(&told, looks).map_err(|error| Stop::internal(error.to_string()))?;
        Ok(loaded)
    }

    /// The home that the configuration names, opened.
    pub(super) fn reach(&self) -> Result<Reached, Stop> {
        let loaded = self.load_quietly()?;
        if loaded.settings.is_fleet() {
            return Ok(Reached::Fleet(Box::new(Fleet::client(loaded)?)));
        }
        Ok(Reached::Embedded(Box::new(App::open(loaded)?)))
    }

    /// Rows on stderr, moving where it is a terminal.
    pub(super) fn rows(&self) -> Rows {
        Rows::new(self.aside, io::stderr())
    }

    /// A remark on stderr.
    pub(super) fn remark(&self, text: &str) {
        eprintln!("{}", self.aside.text(text));
    }

    /// Says what went wrong and gives back the code to end with.
    pub(super) fn tell(&self, stop: Stop) -> Exit {
        if let Some(problem) = stop.problem {
            eprint!("{}", problem.render(&self.aside));
        }
        stop.exit
    }
}

/// The account that was named, else the only one.
pub(super) fn account(loaded: &Loaded, named: Option<&str>) -> Result<AccountName, Stop> {
    let accounts = &loaded.settings.accounts;
    let known = || accounts.keys().map(AccountName::as_str).collect::<Vec<_>>();
    let unknown = |name: &str| Stop::input(unknown_account(loaded, name));
    if let Some(name) = named {
        let parsed = AccountName::parse(name).map_err(|_| unknown(name))?;
        return if accounts.contains_key(&parsed) { Ok(parsed) } else { Err(unknown(name)) };
    }
    let mut keys = accounts.keys();
    match (keys.next(), keys.next()) {
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Err(Stop::input(unknown_account(loaded, ""))),
        (Some(_), Some(_)) => {
            let problem = super::output::Problem::new("which account?")
                .what(format!("the configuration has {}: {}", accounts.len(), known().join(", ")))
                .next("name one with --account NAME");
            Err(Stop::input(problem))
        }
    }
}

/// The problem of an account that is not configured: which ones are, and where.
pub(super) fn unknown_account(loaded: &Loaded, name: &str) -> super::output::Problem {
    let known: Vec<&str> = loaded.settings.accounts.keys().map(AccountName::as_str).collect();
    if known.is_empty() {
        return super::output::Problem::new("no account is configured")
            .what("the configuration holds no [accounts.NAME] table")
            .next("write one into longshore.toml; `longshore schema config` shows every setting")
            .next("to try without an account: longshore demo, or longshore sandbox");
    }
    let place = |name: &&str| match loaded.origin(&format!("accounts.{name}.tenant_id")) {
        Some(config::Origin::File { path, .. }) => format!("{name} ({})", path.display()),
        Some(config::Origin::Variable(variable)) => format!("{name} ({variable})"),
        Some(config::Origin::Default { .. }) | None => (*name).to_owned(),
    };
    let places: Vec<String> = known.iter().map(place).collect();
    let problem = super::output::Problem::new(format!("account {name:?} is not configured"))
        .what(format!("configured: {}", places.join(", ")));
    match nearest(name, known.iter().copied()) {
        Some(near) => problem.next(format!("did you mean {near:?}?")),
        None => problem.next("name one of them, or add [accounts.NAME] to the configuration"),
    }
}
