"""The panels of the module together, and how they follow the scene and the engine."""

from __future__ import annotations

from typing import Any

import qt
import slicer
from MPERLib.callbacks import slot
from MPERLib.cohort_panel import CohortPanel, add_section
from MPERLib.engine_session import EngineSession
from MPERLib.formatting import sentence
from MPERLib.panel_context import PanelContext
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from MPERTrainerLib.case_navigation import CaseNavigation
from MPERTrainerLib.case_nodes import CaseNodes
from MPERTrainerLib.cases_panel import CasesPanel
from MPERTrainerLib.comparison_panel import ComparisonPanel
from MPERTrainerLib.dataset_panel import DatasetPanel
from MPERTrainerLib.label_panel import LabelPanel
from MPERTrainerLib.next_case_panel import NextCasePanel
from MPERTrainerLib.open_dataset import OpenDataset
from MPERTrainerLib.parameters import TrainerParameters
from MPERTrainerLib.runs_panel import RunsPanel
from MPERTrainerLib.training_panel import TrainingPanel


class ModulePanel(VTKObservationMixin):
    """Makes the panels, and updates them when scene or engine change.

    Parameters
    ----------
    uiWidget : QWidget
        Made from the .ui file.
    logic : MPERTrainerLogic
        Has the parameter node.
    """

    def __init__(self, uiWidget: Any, logic: Any):
        VTKObservationMixin.__init__(self)
        add_section(uiWidget, before=None)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        self._logic = logic
        self._parameters: TrainerParameters | None = TrainerParameters(logic.getParameterNode())
        self._engineState: tuple = ()
        context = self.context = PanelContext(self.ui, lambda: self._parameters, self._about)
        session = self.session = EngineSession(context.showMessage)
        dataset = self.dataset = OpenDataset(context, session)
        caseNodes = self.caseNodes = CaseNodes(session, dataset)
        self.datasetPanel = DatasetPanel(context, session, dataset)
        self.labelPanel = LabelPanel(context, session, dataset, caseNodes)
        self.casesPanel = CasesPanel(context, session, dataset, caseNodes, self.labelPanel)
        self.navigation = CaseNavigation(context, self.labelPanel, dataset)
        self.labelPanel.onShown(self._onCase)
        dataset.onChange(self._onCase)
        dataset.onPage(lambda _cases: self.navigation.show())
        self.runsPanel = RunsPanel(context, session, dataset, self._onRunFinished)
        self.trainingPanel = TrainingPanel(context, session, dataset, self.runsPanel.watch)
        self.comparisonPanel = ComparisonPanel(context, session, dataset, caseNodes)
        self.nextCasePanel = NextCasePanel(context, session, dataset, self.labelPanel.open)
        self.cohortPanel = CohortPanel(context, session, dataset)
        self.ui.engineButton.connect("clicked()", slot(self._onStartEngine))
        session.onChange(self._onEngineChanged)
        scene = slicer.mrmlScene
        for event, method in (
            (scene.StartCloseEvent, self._onSceneCloses),
            (scene.EndCloseEvent, self._onSceneChanged),
            (scene.StartImportEvent, self._onImportStarts),
            (scene.EndImportEvent, self._onSceneChanged),
        ):
            self.addObserver(scene, event, slot(method))
        ui = self.ui
        for section in (ui.casesSection, ui.editSection, ui.trainSection, ui.compareSection, ui.nextSection):
            # CTK's own policy widens the whole panel to the preferred width of what a section shows
            section.setSizePolicy(qt.QSizePolicy.Preferred, qt.QSizePolicy.Preferred)
        dataset.announce()
        self._onEngineChanged()

    def _about(self) -> tuple[Any, ...]:
        """The dataset, the case and the state of the engine that a message may be about."""
        return self.dataset.id, self.labelPanel.case, self.session.engine.state

    def _onCase(self) -> None:
        """Another case is open, or the dataset has changed."""
        self.navigation.show()
        self.context.update()

    def cleanup(self) -> None:
        """The module is being unloaded, or Slicer quits; training runs and the engine continue."""
        self.removeObservers()
        self.navigation.leave()
        for panel in (self.labelPanel, self.casesPanel, self.runsPanel, self.trainingPanel, self.cohortPanel):
            panel.close()
        self.dataset.close()
        self.session.close()
        self.context.close()

    def enter(self) -> None:
        """The user opens the module: start the engine, or read the datasets again."""
        self.labelPanel.enter()
        self.navigation.enter()
        self.cohortPanel.enter()
        running = self.session.running
        self.session.start()
        if running and self.session.running:
            self.datasetPanel.reload()

    def exit(self) -> None:
        """The user goes to another module; work that is under way continues."""
        self.labelPanel.leave()
        self.navigation.leave()
        self.comparisonPanel.leave()
        self.cohortPanel.leave()

    # ---- the scene

    def _onSceneCloses(self) -> None:
        """Release the nodes of the scene; the dataset stays open."""
        self.caseNodes.reset()
        self.comparisonPanel.reset()
        self.labelPanel.reset()
        self.cohortPanel.reset()
        self._parameters = None

    def _onImportStarts(self) -> None:
        self._parameters = None  # the nodes of the scene may bring others

    def _onSceneChanged(self) -> None:
        """A scene was closed or loaded: open the dataset that it names, else keep the one that is open."""
        self._parameters = TrainerParameters(self._logic.getParameterNode())
        wanted, known = self._parameters.Dataset, self.dataset.id or ""
        if not wanted and known:
            self._parameters.Dataset = known
        elif wanted != known and self.session.running:
            self.datasetPanel.reload(wanted)

    # ---- the engine

    def _onStartEngine(self) -> None:
        self.context.clearMessage()
        self.session.start()

    def _onEngineChanged(self) -> None:
        """Show the state of the engine; read the datasets once it is running."""
        engine, ui = self.session.engine, self.ui
        state = (engine, engine.state)
        if state == self._engineState:
            return
        self._engineState = state
        self.context.update()
        ui.engineButton.visible = engine.state in ("stopped", "failed")
        ui.engineLabel.text = sentence(engine.reason) if engine.state == "failed" else self.session.stateText()
        if self.session.running:
            self.datasetPanel.reload()
        else:
            self.dataset.lose()

    def _onRunFinished(self, status: dict) -> None:
        """A training run has published a version: propose it for the comparison."""
        if status.get("model"):
            text = _("The training is finished: {name}, version {version}. Compare it before you use it.")
            self.context.showMessage(text.format(**status))
            self.comparisonPanel.propose(status["model"])
            self.ui.compareSection.collapsed = False
