//! Bugs on purpose, one at a time. They sit at the seams between the cores, where the world does what a driver does;
//! no product code knows of them. Each must be found.

/// What is wrong with the world.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mutant {
    /// Nothing.
    #[default]
    None,
    /// A host applies what a batch of the feed brings piece by piece.
    SplitBatch,
    /// The feed says nothing of entries that a reader may see no more.
    ForgottenWithdrawal,
    /// The control plane answers before its last commit is durable, and loses that in a crash.
    LostCommit,
    /// The control plane takes a request that comes again for another one.
    ForgottenKey,
    /// A host lets the connection of a VM's earlier life go on in the next one.
    UndeadLife,
    /// A host that is cut off takes what it has for the present state.
    EternallyFresh,
    /// An agent keeps its mirror when its machine becomes another instance's.
    InheritedMirror,
    /// A host that comes back says that it has what the feed sent, not what it applied.
    HastyCursor,
    /// A host writes down where it stands before what it has there is on its disk.
    HastyPosition,
}
