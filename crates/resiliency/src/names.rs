//! Levels and names of default policies (contract `config-resources`, section 9.4).

/// Kinds of components that have default policies of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the contract's")]
pub enum ComponentType {
    Binding,
    Configuration,
    Lock,
    Pubsub,
    Crypto,
    Conversation,
    Secretstore,
    Statestore,
}

impl ComponentType {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Binding,
        Self::Configuration,
        Self::Lock,
        Self::Pubsub,
        Self::Crypto,
        Self::Conversation,
        Self::Secretstore,
        Self::Statestore,
    ];

    /// The spelling in names of default policies and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Binding => "Binding",
            Self::Configuration => "Configuration",
            Self::Lock => "Lock",
            Self::Pubsub => "Pubsub",
            Self::Crypto => "Crypto",
            Self::Conversation => "Conversation",
            Self::Secretstore => "Secretstore",
            Self::Statestore => "Statestore",
        }
    }
}

/// Which way a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From a component to the app.
    Inbound,
    /// From the sidecar outwards.
    Outbound,
}

impl Direction {
    /// The spelling of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    const fn level(self) -> &'static str {
        match self {
            Self::Inbound => "Inbound",
            Self::Outbound => "Outbound",
        }
    }
}

/// What a default policy is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    App,
    Actor,
    Component(ComponentType, Direction),
}

impl Use {
    /// The levels of names to look for, most specific first.
    pub(crate) fn levels(self) -> Vec<String> {
        match self {
            Self::App => vec!["App".to_owned(), String::new()],
            Self::Actor => vec!["Actor".to_owned(), String::new()],
            Self::Component(component_type, direction) => vec![
                format!("{}Component{}", component_type.name(), direction.level()),
                format!("Component{}", direction.level()),
                "Component".to_owned(),
                String::new(),
            ],
        }
    }
}
